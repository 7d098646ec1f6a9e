"""The English wordings of every fact."""

from __future__ import annotations

from tomoni.world.wording import Wording, wording

SHOP: dict[str, Wording] = {
    "district": wording(
        predicates="""stands in {v}
            is located in {v}
            has its home in {v}
            lies in the district of {v}""",
        sentences="""the address of {s} is in {v}
            people find {s} in {v}
            to get to {s}, walk to {v}
            the part of town where {s} stands is {v}
            the sign of {s} hangs in {v}""",
        answers="""{s} is a shop in {v}""",
        direct="""where is {s}
            in which part of town is {s}
            which district is {s} in""",
        indirect="""where {s} is
            which district {s} is in""",
        topic="""the district of {s}
            the location of {s}""",
        unseen="""where can I find {s}
            in which part of town {s} stands
            the address of {s}""",
        follow_up="""and where is it
            and which district is it in
            where is that""",
    ),
    "opens": wording(
        predicates="""opens at {v}
            starts business at {v}
            lets customers in from {v}
            is open from {v}
            raises its shutters at {v}""",
        sentences="""the opening time of {s} is {v}
            the doors of {s} open at {v}
            one can visit {s} from {v}
            the day at {s} begins at {v}
            the opening hour on the door of {s} is {v}""",
        answers="""{s} opens its doors at {v}""",
        direct="""what time does {s} open
            when does {s} open
            from what time is {s} open""",
        indirect="""what time {s} opens
            when {s} opens""",
        topic="""the opening time of {s}
            the opening hour of {s}""",
        unseen="""at what hour does {s} start business
            from when I can visit {s}
            the time {s} opens in the morning""",
        follow_up="""and when does it open
            and what time does it open
            what is the opening time""",
    ),
    "closed": wording(
        predicates="""is closed on {v}
            takes {v} off
            rests on {v}
            does not open on {v}""",
        sentences="""the closing day of {s} is {v}
            the weekly holiday of {s} is {v}
            the day off at {s} is {v}
            nobody works at {s} on {v}
            the shutters of {s} stay down on {v}""",
        answers="""{s} has its day off on {v}""",
        direct="""on which day is {s} closed
            which day is {s} closed
            when is {s} closed""",
        indirect="""on which day {s} is closed
            which day {s} takes off""",
        topic="""the closing day of {s}
            the day off of {s}""",
        unseen="""what day of the week does {s} rest
            on what day {s} does not open
            the weekly holiday of {s}""",
        follow_up="""and which day is it closed
            and on which day does it close
            what is the closing day""",
    ),
    "owner": wording(
        predicates="""belongs to {v}
            is run by {v}
            is owned by {v}
            has {v} for its owner""",
        sentences="""the owner of {s} is {v}
            the person who runs {s} is {v}
            the keeper of {s} is called {v}
            behind the counter of {s} stands {v}
            everybody knows that {s} is the shop of {v}""",
        answers="""{s} is in the hands of {v}""",
        direct="""who owns {s}
            who runs {s}
            who is the owner of {s}""",
        indirect="""who owns {s}
            who runs {s}""",
        topic="""the owner of {s}
            the name of the owner of {s}""",
        unseen="""whose shop is {s}
            to whom {s} belongs
            the keeper of {s}""",
        follow_up="""and who owns it
            and who runs it
            who is the owner""",
    ),
    "product": wording(
        predicates="""is known for its {v}
            sells a fine {v}
            is famous for its {v}
            is proud of its {v}""",
        sentences="""the speciality of {s} is the {v}
            the best thing at {s} is the {v}
            people go to {s} for the {v}
            what sells most at {s} is the {v}
            in the window of {s} one sees the {v}""",
        answers="""{s} has the {v} as its speciality""",
        direct="""what is {s} known for
            what is the speciality of {s}
            what is {s} famous for""",
        indirect="""what {s} is known for
            what the speciality of {s} is""",
        topic="""the speciality of {s}
            the best thing at {s}""",
        unseen="""what sells most at {s}
            what people go to {s} for
            the most popular thing at {s}""",
        follow_up="""and what is it known for
            and what is its speciality
            what is the best thing there""",
    ),
    "price": wording(
        predicates="""asks {v} for its speciality
            sells its speciality for {v}
            takes {v} for its best piece""",
        sentences="""the speciality of {s} costs {v}
            the price of the speciality at {s} is {v}
            for the speciality of {s} one pays {v}
            the best thing at {s} is priced at {v}
            the price tag on the speciality of {s} says {v}""",
        answers="""{s} offers its speciality at {v}""",
        direct="""how much is the speciality of {s}
            how much does the speciality of {s} cost
            what does the speciality of {s} cost""",
        indirect="""how much the speciality of {s} costs
            how much the speciality of {s} is""",
        topic="""the price of the speciality of {s}
            the price of the speciality at {s}""",
        unseen="""what is the price of the best thing at {s}
            how much one pays for the speciality of {s}
            the cost of the speciality of {s}""",
        follow_up="""and how much is it
            and what does the speciality cost
            what is the price""",
    ),
}

PERSON: dict[str, Wording] = {
    "job": wording(
        predicates="""works as a {v}
            is a {v}
            earns a living as a {v}
            became a {v}""",
        sentences="""the job of {s} is {v}
            by trade, {s} is a {v}
            in town, {s} is known as a good {v}
            the work {s} does is that of a {v}""",
        answers="""{s} has the job of a {v}""",
        direct="""what does {s} do
            what is the job of {s}
            what does {s} do for a living""",
        indirect="""what {s} does for a living
            what the job of {s} is""",
        topic="""the job of {s}
            the occupation of {s}""",
        unseen="""what does {s} work as
            what trade {s} follows
            the work of {s}""",
        follow_up="""and what is the job
            and what job is it
            what is that person's job""",
    ),
    "home": wording(
        predicates="""lives in {v}
            has a house in {v}
            moved to {v} long ago
            comes home to {v}""",
        sentences="""the home of {s} is in {v}
            the house of {s} stands in {v}
            the neighbours of {s} live in {v}
            the district {s} calls home is {v}""",
        answers="""{s} is at home in {v}""",
        direct="""where does {s} live
            in which district does {s} live
            which district does {s} live in""",
        indirect="""where {s} lives
            which district {s} lives in""",
        topic="""the home district of {s}
            the district of {s}""",
        unseen="""which district is home to {s}
            in which part of town {s} lives
            the part of town where {s} lives""",
        follow_up="""and where is the home
            and in which district is the home
            what is the home district""",
    ),
    "hobby": wording(
        predicates="""enjoys {v}
            spends every free hour on {v}
            has {v} for a hobby
            loves {v}""",
        sentences="""the hobby of {s} is {v}
            on days off, {s} can think only of {v}
            what {s} likes to do is {v}
            the pastime of {s} is {v}""",
        answers="""{s} is fond of {v}""",
        direct="""what is the hobby of {s}
            which hobby does {s} have
            what does {s} like to do""",
        indirect="""what the hobby of {s} is
            which hobby {s} has""",
        topic="""the hobby of {s}
            the pastime of {s}""",
        unseen="""what does {s} enjoy on days off
            what {s} likes to do
            the favourite pastime of {s}""",
        follow_up="""and what is the hobby
            and which hobby is it
            what is that person's hobby""",
    ),
    "likes": wording(
        predicates="""likes to eat {v}
            always orders {v}
            eats {v} whenever possible
            is always hungry for {v}""",
        sentences="""the favourite food of {s} is {v}
            what {s} likes to eat is {v}
            the food {s} likes best is {v}
            on birthdays, {s} asks for {v}""",
        answers="""{s} likes {v} better than any other food""",
        direct="""what does {s} like to eat
            what is the favourite food of {s}
            which food does {s} like""",
        indirect="""what {s} likes to eat
            what the favourite food of {s} is""",
        topic="""the favourite food of {s}
            the favourite dish of {s}""",
        unseen="""what does {s} always order
            which food {s} likes best
            the food {s} likes best""",
        follow_up="""and what is the favourite food
            and which food is it
            what is that person's favourite food""",
    ),
}

STATION: dict[str, Wording] = {
    "line": wording(
        predicates="""is on the {v}
            belongs to the {v}
            is served by the {v}
            is a stop of the {v}""",
        sentences="""the line that stops at {s} is the {v}
            trains at {s} run on the {v}
            to reach {s}, take the {v}
            the line of {s} is the {v}""",
        answers="""{s} is a station of the {v}""",
        direct="""which line is {s} on
            which line stops at {s}
            what line does {s} belong to""",
        indirect="""which line {s} is on
            which line stops at {s}""",
        topic="""the line of {s}
            the train line at {s}""",
        unseen="""which line do I take to {s}
            what line {s} belongs to
            the line that stops at {s}""",
        follow_up="""and which line is it on
            and what line is that
            which line stops there""",
    ),
    "first_train": wording(
        predicates="""has its first train at {v}
            sees the first train off at {v}
            sends out its first train at {v}""",
        sentences="""the first train from {s} leaves at {v}
            the first train of the day at {s} is at {v}
            the earliest train from {s} runs at {v}
            at {s} the first departure is at {v}
            on the timetable of {s} the first line says {v}""",
        answers="""{s} has a first train that leaves at {v}""",
        direct="""when does the first train leave {s}
            when is the first train from {s}
            what time is the first train at {s}""",
        indirect="""when the first train leaves {s}
            what time the first train at {s} is""",
        topic="""the time of the first train from {s}
            the first train at {s}""",
        unseen="""at what hour is the earliest train from {s}
            when the first departure at {s} is
            the earliest train at {s}""",
        follow_up="""and when is the first train
            and what time does the first train leave
            what about the first train""",
    ),
    "minutes": wording(
        predicates="""is {v} from the centre
            lies {v} away from the centre
            is {v} by train from the centre""",
        sentences="""the ride from {s} to the centre takes {v}
            from {s} to the centre it takes {v}
            the way from {s} to the centre is {v} by train
            a train from {s} reaches the centre in {v}
            between {s} and the centre there are {v}""",
        answers="""{s} needs {v} by train to the centre""",
        direct="""how long does it take from {s} to the centre
            how far is {s} from the centre
            how many minutes is {s} from the centre""",
        indirect="""how long it takes from {s} to the centre
            how many minutes {s} is from the centre""",
        topic="""the time from {s} to the centre
            the ride from {s} to the centre""",
        unseen="""how long is the ride from {s} to the centre
            how long the train from {s} needs to the centre
            the minutes from {s} to the centre""",
        follow_up="""and how long does it take to the centre
            and how far is it from the centre
            how many minutes is it to the centre""",
    ),
}

EVENT: dict[str, Wording] = {
    "date": wording(
        predicates="""takes place on {v}
            is held on {v}
            is celebrated on {v}
            comes round every year on {v}""",
        sentences="""the date of {s} is {v}
            the day of {s} is {v}
            people wait all year for {s} on {v}
            the calendar has {s} on {v}""",
        answers="""{s} falls on {v}""",
        direct="""when is {s}
            on what date is {s}
            when does {s} take place""",
        indirect="""when {s} is
            on what date {s} takes place""",
        topic="""the date of {s}
            the day of {s}""",
        unseen="""on which day of the year is {s} held
            which day {s} is celebrated
            the day on which {s} is held""",
        follow_up="""and when is it
            and on what date is it
            what is the date""",
    ),
    "place": wording(
        predicates="""is held in {v}
            fills the streets of {v}
            takes place in {v}
            brings people to {v}""",
        sentences="""the place of {s} is {v}
            people see {s} in {v}
            the stage of {s} is built in {v}
            those who want to see {s} go to {v}""",
        answers="""{s} can be seen in {v}""",
        direct="""where is {s} held
            where does {s} take place
            in which district is {s}""",
        indirect="""where {s} is held
            in which district {s} takes place""",
        topic="""the place of {s}
            the district of {s}""",
        unseen="""where do people go to see {s}
            in which part of town {s} is
            the location of {s}""",
        follow_up="""and where is it held
            and in which district is it
            what is the place""",
    ),
}

CLIMATE: dict[str, Wording] = {
    "weather": wording(
        predicates="""is mostly {v}
            is {v} on most days
            tends to be {v}
            is known to be {v}""",
        sentences="""the weather of {s} is {v}
            visitors find {s} {v}
            everyone remembers {s} as {v}
            the almanac calls {s} {v}""",
        answers="""{s} is usually {v}""",
        direct="""what is the weather like at {s}
            how is the weather at {s}
            what is {s} like""",
        indirect="""what the weather of {s} is like
            how the weather of {s} is""",
        topic="""the weather of {s}
            the usual weather of {s}""",
        unseen="""what kind of weather has {s}
            what kind of weather {s} brings
            the climate of {s}""",
        follow_up="""and what is the weather like
            and how is the weather
            what about the weather""",
    ),
}

ENGLISH = {"shop": SHOP, "person": PERSON, "station": STATION, "event": EVENT, "climate": CLIMATE}
